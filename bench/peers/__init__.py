"""What a hospital would write instead of Thoraq, each as short as its tutorials have it."""
