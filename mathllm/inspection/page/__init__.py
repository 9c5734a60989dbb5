"""The page of a report: one HTML file with the model in it, which needs no network and nothing installed."""
