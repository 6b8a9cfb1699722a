"""What ``fairgate top`` shows, drawn with nothing but ANSI codes."""
