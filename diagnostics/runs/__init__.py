"""One encoder on one dataset, measured: the job, its results as profiles and pages, and runs side by side."""
