"""From a dataset on disk to arrays: readers -> manifest -> splits -> pixels -> order of samples."""
