"""What a delivery costs, beside hand-written servers and other libraries; README.md says how."""
