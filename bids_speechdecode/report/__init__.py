"""HTML reports, assembled from derivatives on disk."""
