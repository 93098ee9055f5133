CREATE OR REPLACE VIEW catalog_price_range AS
SELECT category_id, min(price) AS lowest, max(price) AS highest
FROM catalog_product
WHERE is_active
GROUP BY category_id;
