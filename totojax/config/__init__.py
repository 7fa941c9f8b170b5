"""Every config key, typed once: sections of fields, recipes, the paper's rows."""
