"""The colours of all figures."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#303030", "#7A4DA0", "#56B4E9")
"""Okabe and Ito's colour-blind-safe colours, the pale ones darkened for lines on white."""
INK, GREY, LIGHT, GRID = "#202124", "#5f6368", "#c7cacd", "#eceff1"
