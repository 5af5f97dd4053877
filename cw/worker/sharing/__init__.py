"""Large shared values that workers give to each other."""
