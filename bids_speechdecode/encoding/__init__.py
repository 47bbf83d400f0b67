"""Speech models -> what each electrode does: ridge over lags, its scores, and tuning on fMRI."""
