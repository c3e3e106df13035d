"""What is computed: traces of real PyTorch runs, and the policies applied to them."""
