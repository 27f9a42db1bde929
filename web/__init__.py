"""The code that only the web service uses."""
