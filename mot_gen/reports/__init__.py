"""What a run shows of itself: samples, held-out measures, the judge's figures and the report page."""
