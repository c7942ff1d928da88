"""Pilothouse beside its peers: `scenarios` say what is asked, `arms` who is asked, `measuring` runs and keeps it, `page` writes it down."""
