"""The controller: a LanguageModel becomes the chart's workload, and a moved alias a rollout."""
