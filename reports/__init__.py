"""The report templates, their message catalogues and the page they are rendered with (data, no code)."""
