"""Many runs: made by one command, and told which are good."""
