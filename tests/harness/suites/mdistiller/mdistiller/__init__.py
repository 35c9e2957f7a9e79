"""What our adapter relies on in mdistiller, stated anew and run by its tests where the suite itself is not at hand."""
