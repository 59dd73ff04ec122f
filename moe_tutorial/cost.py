"""What a mixture costs, and routers without a parameter. Chapter 13."""
