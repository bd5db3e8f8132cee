"""What changed since earlier looks, and is it more than noise: the floor of drift, and looks at which maps jumped."""
