"""Interactive charts: Vega-Lite specifications, with the menus and checkboxes that change them."""
