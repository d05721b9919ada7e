"""What runs inside somebody else's image: the guard, its plug-in, and the encoding that everyone hashes with.

Standard library only, Python 3.10 and newer: the engine image decides which interpreter runs this.
"""
