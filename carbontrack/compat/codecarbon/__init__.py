"""CodeCarbon's public names: a program that says `import codecarbon` runs unchanged."""
