"""Report on tables of experiments: what their runs say of their claims."""
