"""Training on one trainer that knows no objective: four objectives on one backbone, a baseline and a ceiling."""
