"""Speed of training and decoding on this device, beside what the device can do."""
