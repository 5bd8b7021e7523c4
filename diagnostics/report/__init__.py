"""How findings are drawn and laid out: HTML, text at any width, progress."""
