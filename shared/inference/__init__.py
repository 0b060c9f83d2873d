"""Model bundles, and the engines that run them."""
