"""What we are compared with: published loops in plain torch, written anew from their description."""
