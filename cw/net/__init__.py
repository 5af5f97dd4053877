"""How processes of cw find each other, trust each other, and speak."""
