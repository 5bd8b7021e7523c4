"""`diagnostics recaption`: clips captioned anew by models in local folders, or by rules, as a table to train on."""
