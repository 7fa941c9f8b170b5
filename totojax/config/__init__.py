"""Every config key, declared once: sections of fields, and recipes."""
