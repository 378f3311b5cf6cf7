"""Many runs: jobs in a folder that is the truth, and engines that give them places. No torch."""
