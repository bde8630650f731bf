"""What an evaluation yields and how it is kept: records, artifacts, the store on disk, checkpoints."""
