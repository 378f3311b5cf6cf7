"""What is optimised: anything with parameters that renders images."""
