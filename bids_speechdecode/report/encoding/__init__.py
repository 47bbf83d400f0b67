"""The sections on encoding in the reports of a participant and of the group."""
