"""What experiments found: a paragraph, figures and tables of each, per participant and group."""
