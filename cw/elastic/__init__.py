"""An elastic cluster: how many slots the jobs want, and which pieces bring them. Pure: no batch system, no clock."""
