"""How the report looks: number formats, elements of the page, and the style of figures."""
