"""The steps of the analysis `encoding`: responses, features, scores of electrodes, the group."""
