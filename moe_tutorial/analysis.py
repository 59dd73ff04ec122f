"""What experts know, and what changes if a trained router is asked otherwise. Chapter 12."""
