"""Tests of the template, the image's files and the deployment documents."""
