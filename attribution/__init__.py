"""The attribution engine: methods are formulas over a Site. Needs torch and numpy only."""
