package modelsig

// SetStep has f called between the steps of each pull.
func (c *Client) SetStep(f func(name string)) { c.step = f }
