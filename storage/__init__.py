"""What a run leaves behind: numpy, Zarr, Parquet; neither torch nor Ray."""
