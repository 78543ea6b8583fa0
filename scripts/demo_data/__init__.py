"""Makers of the demo data, one kind each; ``make_demo_data.py`` chooses among them."""
