"""What jobs print, at home: where it comes in, and where it goes."""
