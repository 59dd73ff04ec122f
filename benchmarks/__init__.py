"""What the library costs, measured beside what others cost; see README.md in this folder."""
