"""Where rides come from: the generator, files, and what turns them bad or packs them."""
