"""What puppet_jax is measured against: the same functions, written by other means and sharing no code with it."""
