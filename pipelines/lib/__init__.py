"""What the pipelines, the command line and the notebooks share: manifests, scoring, reports."""
