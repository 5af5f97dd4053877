"""Network layer of cw: processes find each other, prove their credential, and exchange messages."""
