"""From finished cells to a curve, a recommendation and a page: `page.build_report` makes them all."""
