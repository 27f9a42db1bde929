"""What only the web service uses."""
